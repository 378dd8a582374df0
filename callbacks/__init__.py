"""Lightning callbacks that watch and steer a run; imported as ``lit_vlm.callbacks``."""
