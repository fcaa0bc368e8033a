"""Fit a line to points by gradient descent, and publish the loss of each epoch."""

import random
import time

from benchmarkai import emit

random.seed(1)
points = []
for _ in range(10000):
    x = random.random()
    points.append((x, 3 * x + 1 + random.gauss(0, 0.1)))

slope = intercept = 0.0
for epoch in range(1, 11):
    start = time.perf_counter()
    squares = 0.0
    for x, y in points:
        error = slope * x + intercept - y
        slope -= 0.001 * error * x
        intercept -= 0.001 * error
        squares += error * error
    seconds = time.perf_counter() - start
    emit({"train.epoch": epoch, "train.loss": squares / len(points), "train.seconds": seconds})
