"""From a config to a trained run: the parts, the experiment and the loop."""
