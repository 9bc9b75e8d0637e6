"""The promises of the suite, each proved under real faults: `make chaos` plays the large size,
the tests in this folder the small one.

arena      a suite with two copies of each service, and what can be done to it
clients    users who repeat what fails, and remember every answer
run        one part: clients and faults, then healing, convergence and the comparison of all records
processes, servers, money, retries, connections, failover   what the parts do; parts names all
proxy      stands between services and servers, and misbehaves
standby    a second PostgreSQL, on a small disk
taps       messages of the bus, copied and delivered again
points     where a process may die, and who heals it
versions   the files of the previous version, for copies that run beside those of this one
crashing   a launcher that makes a process die there
report     the progress line, the table, the file
"""
