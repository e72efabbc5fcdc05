"""What is done with a finished dataset: check it, complete it, compare it with the web, give it another format."""
