"""From a config to a trained run: its set-up, the experiment and the loop."""
