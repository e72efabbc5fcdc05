"""`turbo-fetch doctor`: what this machine has, measured, and what to do about what it lacks."""
