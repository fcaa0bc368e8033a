# Time the inversion of a matrix, five times.
out <- pipe("bai-emit", "w")
for (run in 1:5) {
  m <- matrix(rnorm(300 * 300), 300)
  seconds <- system.time(solve(m))[["elapsed"]]
  writeLines(sprintf("solve.seconds=%.17g", seconds), out)
  flush(out)
}
status <- close(out) # NULL or 0 if everything was published
if (length(status) && status != 0) quit(status = 1)
