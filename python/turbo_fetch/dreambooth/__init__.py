"""DreamBooth: from a few images to a personalised model. Needs the extra `train`; import its modules, not this."""

import logging

# Both warn at import, over many lines, of what they cannot do on this machine; `attention.py` says it in one.
for _library in ("xformers", "bitsandbytes"):
    logging.getLogger(_library).setLevel(logging.ERROR)
