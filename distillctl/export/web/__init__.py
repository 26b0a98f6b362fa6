"""A folder that is a web page: an exported model answers in a browser, for images that never leave the device."""

from distillctl.export.web.folder import write_web
