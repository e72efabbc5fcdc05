"""Scores: columns that a function of the user's computes from finished images, in processes of their own.

A worker that has all rows of a shard in its spool asks for the scores of its images batch by batch, in the order of
the rows, and adds them to the spool; what they decide is decided when the shard is written. The function runs in
processes that all workers of a machine share (`process`), which they find by a place of the job (`rendezvous`).
"""
