"""The command line: `python3 -m official_maskrcnn VERB`."""
