"""From image files to training examples: found, checked, cut, encoded once, and dealt out in batches."""
