"""A Trainer callback that ends a run after some step, as an interruption would."""

import transformers


class StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = control.should_training_stop or state.global_step == self.step
        return control
