"""What runs on the device: preprocessing, backends, pipeline, feature cache."""
