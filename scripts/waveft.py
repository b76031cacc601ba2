"""A web UI's way in: it runs every file of an extension's `scripts/` at its start, the clone's root on `sys.path`."""

import waveft_webui.extension

waveft_webui.extension.register()
