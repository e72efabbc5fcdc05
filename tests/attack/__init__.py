"""Attacks that are made again and again: see `campaign`."""
