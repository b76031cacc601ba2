"""The extension for A1111, Forge, reForge and Forge Classic / Neo: the third face of the core.

A web UI puts the clone's root on `sys.path`, A1111 only while it runs our script: everything is imported by then, or
lies inside a package that is. What each UI is given is in `families/`; `gate` sees to it that a file is applied whole
or not at all, whatever the UI itself would do.
"""
