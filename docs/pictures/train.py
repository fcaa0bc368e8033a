"""A stand-in for the training of a model: it learns nothing, but takes the given time."""

import math
import random
import sys
import time

from benchmarkai import emit

EPOCHS = 60
pause = float(sys.argv[1]) / EPOCHS
noise = random.Random(1)
for epoch in range(EPOCHS):
    loss = 0.15 + 2.15 * math.exp(-epoch / 11) + noise.gauss(0, 0.02)
    accuracy = 0.93 - 0.83 * math.exp(-epoch / 14) + noise.gauss(0, 0.01)
    emit({"resnet.loss": loss, "resnet.accuracy": accuracy})
    time.sleep(pause)
