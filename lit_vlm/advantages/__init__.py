"""Parts that turn rewards into advantages, and choose the groups worth training on."""
