"""How fast and how exact minibert is, beside other programs that compute a BERT.

 inputs      what the models read: real sentences, or random ids of similar lengths
 cases       what is measured: the sizes of a model, its inputs, its precision, its engines
 engines     minibert and its rivals, one function each, with the best settings of each
 graphs      the rivals that run a file: ONNX Runtime and OpenVINO
 steps       training steps, and Adam alone
 accuracy    how far an answer may be from float64
 arithmetic  how many operations a case needs, and how fast the machine multiplies
 turns       timing in interleaved rounds
 memory      peak memory, each engine in a process of its own
 compare     one case from its models to its rows
 report      the rows as a table and as a JSON document
 chart       the rows as a picture

An engine is first compared with the book in float64; one whose error is over its bound is not
timed. Engines take turns, so that whatever else the machine does affects all of them alike.
"""
