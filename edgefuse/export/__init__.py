"""From a torch model to stages to files of a target."""
