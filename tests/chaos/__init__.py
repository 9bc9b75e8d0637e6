"""Prove the promises of the suite under real faults.

`make chaos` plays the parts in the large size, the tests in this folder in the small one.

arena      a suite with two copies of each service, and faults for it
clients    users that retry failed requests and record every response
run        one part: clients and faults, recovery, convergence, comparison of all records
processes, servers, money, retries, connections, failover   the parts
parts      all parts in their order
proxy      a TCP proxy with faults, between services and servers
standby    a second PostgreSQL, on a small disk
taps       messages of the bus, copied and redelivered
points     points at which a process crashes, and how the suite recovers
crashing   a launcher that makes a process crash at a point
versions   the files of the previous version, for copies that run beside this version
report     the progress line, the table, the file of results
load       clients for a suite started by `make up`: `make load`
"""
