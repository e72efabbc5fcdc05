"""What is recorded of a run, by a process of its own, and what can be seen of a dataset."""
