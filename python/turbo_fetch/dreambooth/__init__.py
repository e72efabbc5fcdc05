"""DreamBooth: from a few images to a personalised model. Needs the extra `train`; import its modules, not this."""

import logging

# They warn at import, some over many lines, of what they cannot do on this machine, and of parts of their own;
# `machine.py` says in one line what matters of it.
for _library in ("xformers", "bitsandbytes", "torchao", "torch.utils._pytree", "diffusers.quantizers"):
    logging.getLogger(_library).setLevel(logging.ERROR)
