"""Stand in for the training of a model: emit a plausible loss and accuracy after each epoch."""

import math
import random
import sys
import time

from benchmarkai import emit

pause = float(sys.argv[1])  # seconds between epochs
noise = random.Random(1)
for epoch in range(60):
    loss = 0.15 + 2.15 * math.exp(-epoch / 11) + noise.gauss(0, 0.02)
    accuracy = 0.93 - 0.83 * math.exp(-epoch / 14) + noise.gauss(0, 0.01)
    emit({"resnet.loss": loss, "resnet.accuracy": accuracy})
    time.sleep(pause)
