"""Other libraries' names of arguments: the error for one says what it is called here."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

# Ours, by itself or with a value, and the names that others have for it.
OTHERS = {
    "x": "X inputs data",
    "y": "Y target targets labels",
    "lengths": "sequence_length sequence_lengths seq_lengths",
    "input_size": "input_dim in_features n_features n_inputs",
    "hidden_size": "units hidden_units hidden_dim n_hidden hidden hidden_layer_sizes",
    "output_size": "output_dim out_features n_outputs n_classes num_classes",
    "num_layers": "layers n_layers",
    "activation": "nonlinearity",
    'output="all"': "return_sequences",
    "dropout": "dropout_rate",
    "train_initial_state": "learn_initial_state train_x0 train_h0",
    "mask": "connectivity",
    "dale": "ei dales_law dale_ratio",
    "self_connections": "autapses autapse",
    "seed": "random_state generator rng",
    "random_state": "seed generator rng",
    "loss": "criterion loss_fn loss_function objective",
    "optimizer": "solver optim opt",
    "epochs": "n_epochs num_epochs nb_epoch max_epochs max_iter",
    "batch_size": "minibatch_size",
    "steps_per_epoch": "batches_per_epoch iterations_per_epoch",
    "clip_norm": "clipnorm global_clipnorm max_norm max_grad_norm gradient_clip_val",
    "truncate": "bptt tbptt",
    "sample_weight": "sample_weights weights weight",
    "class_weight": "class_weights",
    "l2": "alpha kernel_regularizer",
    "activity_l2": "activity_regularizer",
    "frozen": "freeze trainable",
    "validation": "validation_data val_data eval_set",
    "validation_split": "validation_fraction val_split",
    "validation_fraction": "validation_split val_split",
    "patience": "early_stopping n_iter_no_change",
    "progress": "verbose",
    "verbose": "progress",
    "callback": "callbacks",
    "learning_rate": "lr eta learning_rate_init step_size",
    "optimizer=fastbptt.Adam(learning_rate=...)": "learning_rate lr eta learning_rate_init",
    "optimizer=fastbptt.Adam(weight_decay=...)": "weight_decay",
    "optimizer=fastbptt.SGD(momentum=...)": "momentum nesterov",
    "rho": "alpha decay",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "beta_1 and beta_2": "betas",
    "eps": "epsilon",
}
# What there is no argument for, and why.
NOT_NEEDED = {
    "batch_first": "x is (N, T, I), sequences first",
    "bias": "there is always one",
    "use_bias": "there is always one",
    "shuffle": "the order of sequences is drawn anew in each epoch",
    "device": "all is computed on the CPU",
}


def with_our_names(function: Function) -> Function:
    """`function`, with a TypeError for an unknown keyword that says what it is called here.

    Its signature stays as it is, for type checkers too.  A call takes a fraction of a microsecond
    longer, which is too much for the calls for one layer: these may take 4 us in all.
    """
    taken = frozenset(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        unknown = given.keys() - taken
        if unknown:
            name = function.__qualname__
            if function.__name__ == "__init__" and args:
                name = type(args[0]).__name__
            first = next(theirs for theirs in given if theirs in unknown)
            raise TypeError(f"{name}() got an unexpected argument {first!r}{_advice(first, taken)}")
        return function(*args, **given)

    return cast(Function, call)


def _advice(theirs: str, taken: frozenset[str]) -> str:
    """What to write instead, for a function that takes these arguments."""
    if theirs in NOT_NEEDED:
        return f": {NOT_NEEDED[theirs]}"
    for ours, others in OTHERS.items():
        if theirs in others.split() and ours.partition("=")[0].split()[0] in taken:
            return f", expected {ours}"
    known = sorted(taken - {"self"})
    close = difflib.get_close_matches(theirs, known, 1)
    return f", expected {close[0] if close else 'some of ' + ', '.join(known)}"
