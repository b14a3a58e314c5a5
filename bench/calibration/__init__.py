"""How far the routing bench's engine model is from engines that exist: real vLLM, and Dynamo's mocker."""
