"""Stages as TFLite files (`target`), rewritten (`rewrites`), with recurrent layers as loops."""
