"""One sequence at a time: every step waits for the one before."""

from .common import SINGLE, calls, shown


class Single:
    version, timeout = "1", 120
    rounds, repeat = 1, (5, 100, 1.0)
    param_names = ("T B I H",)
    params = ((SINGLE, "200 1 16 256"),)

    def setup(self, shape):
        self.forward, self.backward = calls(shape)

    @shown("One sequence: time of a forward")
    def time_forward(self, *_):
        self.forward()

    @shown("One sequence: time of a backward")
    def time_backward(self, *_):
        self.backward()
