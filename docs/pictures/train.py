"""Train a logistic regression by gradient descent, and publish its loss and accuracy."""

import math
import random
import sys
import time

from benchmarkai import emit

pause = float(sys.argv[1])  # seconds between epochs
random.seed(1)
points = []
for _ in range(500):
    x, y = random.gauss(0, 1), random.gauss(0, 1)
    points.append((x, y, 1 if x + 2 * y + random.gauss(0, 0.5) > 1 else 0))

a = b = 0.0
c = 1.0
for epoch in range(60):
    loss, right = 0.0, 0
    for x, y, label in points:
        guess = 1 / (1 + math.exp(-(a * x + b * y + c)))
        loss -= math.log(guess if label else 1 - guess)
        right += (guess > 0.5) == label
        step = 0.0003 * (label - guess)
        a, b, c = a + step * x, b + step * y, c + step
    emit({"train.loss": loss / len(points), "train.accuracy": right / len(points)})
    time.sleep(pause)
