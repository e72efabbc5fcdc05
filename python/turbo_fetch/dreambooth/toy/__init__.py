"""A small world in which the whole of DreamBooth can be shown and proven in minutes, offline, on a processor.

Captioned images of shapes, a latent text-to-image model trained on them from scratch, subjects that it has never
seen, and a judge that tells them apart. Needs the packages of the extra `demo`.
"""
