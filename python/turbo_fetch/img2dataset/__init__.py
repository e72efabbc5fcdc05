"""The drop-in: img2dataset's options as a spec."""
