"""Machines that are reached over a wire: measured on, and left as they were found.

`device` says how one is addressed, `ssh` and `adb` reach it, `session` talks to the agent that it is sent; `bootstrap`,
`agent` and `tasks` are what runs there.
"""
