"""Shampoo on one weight of 1024 x 1024 in torch: the formulas and options of the kernel `shampoo_step` of `measure`.

Usage: python shampoo.py [threads] [cycles]. Prints the time of a step, averaged over the ten from roots to roots.
"""

import statistics
import sys
import time

import torch

THREADS, CYCLES = (int(value) for value in (sys.argv[1:] + ["2", "9"][len(sys.argv) - 1 :])[:2])
N, FREQUENCY = 1024, 10
BETA1, BETA2, EPSILON, RATE, DECAY = 0.9, 0.99, 1e-8, 0.01, 0.01

torch.set_num_threads(THREADS)
torch.manual_seed(0)
weight = torch.rand(N, N) * 2 - 1
gradients = [torch.rand(N, N) * 2 - 1 for _ in range(FREQUENCY)]
left, right, momentum, squares = (torch.zeros(N, N) for _ in range(4))
roots = [torch.eye(N), torch.eye(N)]


def inverse_fourth_root(factor):
    values, vectors = torch.linalg.eigh(factor.double())
    values = values - min(values.min().item(), 0.0) + EPSILON
    return ((vectors * values.pow(-0.25)) @ vectors.T).float()


def step(t, gradient):
    left.addmm_(gradient, gradient.T, beta=BETA2, alpha=1 - BETA2)
    right.addmm_(gradient.T, gradient, beta=BETA2, alpha=1 - BETA2)
    squares.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    correction = 1 - BETA2**t
    if t % FREQUENCY == 1:
        roots[:] = [inverse_fourth_root(factor / correction) for factor in (left, right)]
    filtered = torch.lerp(momentum, gradient, 1 - BETA1) / (1 - BETA1**t)
    momentum.lerp_(gradient, 1 - BETA1)
    adam = filtered / ((squares / correction).sqrt() + EPSILON)
    direction = roots[0] @ filtered @ roots[1]
    direction *= adam.norm() / (direction.norm() + 1e-16)
    weight.sub_(direction + DECAY * weight, alpha=RATE)


seconds = []
for cycle in range(CYCLES + 1):
    start = time.perf_counter()
    for i, gradient in enumerate(gradients):
        step(cycle * FREQUENCY + i + 1, gradient)
    seconds.append((time.perf_counter() - start) / FREQUENCY)
seconds = seconds[1:]
print(f"torch {torch.__version__}, {THREADS} threads: median {statistics.median(seconds):.4f} s a step, least {min(seconds):.4f} s")
