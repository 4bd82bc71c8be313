"""Names of the files in a model_dir, for those who write them and those who read them."""

PARAMS = "params.yaml"  # the whole configuration
RECORD = "run.json"  # how the training was started
CATEGORIES = "categories.json"  # ids and names of the classes, as in a COCO file
