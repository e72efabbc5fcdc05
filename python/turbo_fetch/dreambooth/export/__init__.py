"""A trained model in the forms that other programs read: diffusers folder, single file, LoRA in two namings."""
