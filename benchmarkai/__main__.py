from benchmarkai.command.main import run

run()
