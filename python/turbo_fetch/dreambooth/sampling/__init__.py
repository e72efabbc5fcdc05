"""From a model and prompts to images: the stages `[prior]` and `[generate]`, and what they share with others."""
