"""The verbs of the ``lit-vlm`` command, one small module each; nothing heavy is imported before a run needs it."""
