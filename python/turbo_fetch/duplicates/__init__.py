"""Duplicates: which rows show what an earlier row shows, decided by the order of the list and never by time.

URLs are compared before anything is requested (`urls`), contents when all shards are there (`contents`). So what is
the original does not depend on which worker was faster, and shards need not wait for each other.
"""
