"""A web UI's way in: it runs every file of an extension's `scripts/` at its start, the clone's root on `sys.path`."""

import waveft_webui.extension

waveft_webui.extension.register()
Panel = waveft_webui.extension.panel()  # the UI looks through this module for classes of scripts
