"""The front door on every machine; owns each request from arrival to its last byte."""
