"""The artifact: typed manifest, reading, writing, hashing. All that build host and device share.

`reader.open_bundle` and `writer.write_bundle` are the way in and out; docs/bundle-format.md specifies the format.
"""
