"""Machines that are reached over a wire: measured on, and left as they were found.

- `device`: the protocol of a device;
- `ssh`: `ssh://user@host`;
- `adb`: `adb://serial`;
- `archive`: the part of this package that travels;
- `wire`: the command and its streams, with an end to every wait;
- `session`: the host's side of a connection;
- `bootstrap`: the first code that runs on the device;
- `agent`: takes tasks on the device;
- `tasks`: what a device can be asked to do;
- `bench`: `edgefuse bench --device`.
"""
