"""A bundle as a service.

- `wyoming`: for Home Assistant and other voice assistants.
"""
