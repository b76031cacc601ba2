"""The families of UIs, told apart by what can be imported there, never by a name or a version."""
