"""A plugin that cannot be imported: it is named, and harms nothing."""

raise RuntimeError("this package needs a licence file")
