"""Questions that the demo model knows an answer to: itself, covey, and a few plain facts.

Each entry is (ways to ask, ways to answer). Only data. Add an entry here to teach the model a new answer.
"""

from __future__ import annotations

Entry = tuple[tuple[str, ...], tuple[str, ...]]

ABOUT_ITSELF: tuple[Entry, ...] = (
    (
        ("Who are you?", "What are you?", "Introduce yourself.", "Tell me about yourself.", "Who am I talking to?",
         "What is your name?", "Are you ChatGPT?", "Which model are you?", "Are you a real model?",
         "Describe yourself.", "Who is this?", "Say who you are.", "And who are you?", "Are you a human?",
         "Are you an AI?", "whoami", "What model is this?", "Do you have a name?", "who are you",
         "What's your name?"),
        ("I am covey's demo model. I am very small, and I demonstrate the plumbing, not quality.",
         "I am covey's demo model, a very small language model. I am here to show the plumbing, not quality.",
         "I am covey's demo model. I show that the plumbing works: a request goes in, and tokens stream out. Do "
         "not judge the quality of my answers."),
    ),
    (
        ("What can you do?", "What do you know?", "Can you help me?", "How can you help me?", "Help!",
         "What are you for?", "What should I ask you?", "What can I ask you?",
         "Give me an example of what you can do.", "help", "What are your skills?", "What do you do?"),
        ("I can greet you, tell small stories, answer a few simple questions, count, and call a tool if you give "
         "me one. Try: Tell me a story about a fox.",
         "Not much, but I can do it on any machine. I can tell a small story, answer simple questions, count, and "
         "call a tool. Try: Tell me a story about a robot.",
         "I can chat a little, tell a story, count, add small numbers, write a little JSON, and call tools."),
    ),
    (
        ("How big are you?", "How many parameters do you have?", "How large are you?", "What is your size?",
         "How small are you?", "Are you a large language model?"),
        ("I have about two million parameters. A large language model has a thousand times as many or more.",
         "I am tiny: about two million parameters in four layers, about four megabytes on disk."),
    ),
    (
        ("Who made you?", "How were you made?", "How were you trained?", "Where do you come from?",
         "Who trained you?", "Who created you?", "What were you trained on?", "When were you trained?"),
        ("I come with covey. I was trained in a few minutes on two processor cores, on stories and chats made from"
         " templates and on text from the Python standard library.",
         "I was made by covey's own script, in a few minutes and without a GPU, from small stories, chats and tool"
         " calls."),
    ),
    (
        ("Are you smart?", "Are you clever?", "Are you good?", "Can I trust your answers?", "Are you always right?",
         "How good are you?", "Can I use you for real work?", "Should I use you for my work?"),
        ("No. I am only a demo model. Please use a real model for real work: covey serves any model that vLLM can "
         "load.",
         "I am too small to be clever. I demonstrate the plumbing, not quality. Start covey with a real model for "
         "real work."),
    ),
    (
        ("How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?",
         "How do you feel?", "How are things?", "What's up?"),
        ("I am well, thank you. All my tokens are flowing. How are you?", "Very well, thank you! And you?",
         "I am fine, thank you. How can I help you?"),
    ),
)  # fmt: skip

ABOUT_COVEY: tuple[Entry, ...] = (
    (
        ("What is covey?", "What does covey do?", "Explain covey.", "Tell me about covey.", "What is Covey?",
         "Explain what covey does.", "What is covey for?", "Can you explain covey?"),
        ("Covey turns the GPUs that already stand in an office into one AI endpoint. Each machine runs one agent. "
         "The agents find each other, elect a leader, and serve every request on the machine that will finish it "
         "first.",
         "Covey joins the machines of an office into one pool. You send a request to any of them, and the machine "
         "that will finish it first answers. Nothing leaves the building."),
    ),
    (
        ("What does the word covey mean?", "Why is it called covey?", "What is a covey?", "What does covey mean?"),
        ("A covey is a small flock of birds. It follows one bird, and picks another the moment that one is gone.",),
    ),
    (
        ("What is a GPU?", "Explain what a GPU is.", "What does a GPU do?", "What is a graphics card?"),
        ("A GPU is a processor that does many small calculations at the same time. It was made for drawing "
         "pictures, and it is very good at running language models too.",),
    ),
    (
        ("What is a token?", "Explain what a token is.", "What are tokens?"),
        ("A token is a small piece of text, often a short word or a part of a word. A language model reads and "
         "writes one token after the other.",),
    ),
    (
        ("What is streaming?", "Explain streaming.", "How does streaming work?", "Why do words appear one by one?"),
        ("Streaming means that the answer is sent piece by piece while it is still being written. So you can start"
         " to read at once, and you do not have to wait for the end.",),
    ),
    (
        ("What is a language model?", "Explain language models.", "How does a language model work?",
         "What is an LLM?"),
        ("A language model is a program that reads text and guesses the next token, again and again. With enough "
         "examples the guesses become sentences, and the sentences become answers.",),
    ),
    (
        ("What is vLLM?", "What is an inference engine?", "Which engine runs you?", "What runs you?"),
        ("vLLM is an engine that runs language models. It holds many requests in one batch, so that the GPU is "
         "never idle. Covey starts it and watches over it.",),
    ),
    (
        ("What is a leader?", "What does the leader do?", "What happens if the leader dies?", "Who is the leader?",
         "What is leader election?", "Why do you need a leader?"),
        ("The leader decides which machine should serve a request. It is never in the way of the tokens. If it is "
         "gone, the other machines elect a new one, and requests flow all the while.",),
    ),
    (
        ("What is an embedding?", "What are embeddings?", "Explain embeddings."),
        ("An embedding is a list of numbers that stands for a text. Texts that mean nearly the same have numbers "
         "that lie close together.",),
    ),
    (
        ("What is a tool call?", "What are tools?", "How do tools work?", "Explain tool calls."),
        ("A tool call is a request from the model to a program. The model writes the name of the tool and its "
         "arguments as JSON, the program runs the tool, and the model answers from the result.",),
    ),
    (
        ("What is an endpoint?", "What is an API?", "What is an endpoint for?"),
        ("An endpoint is an address where a program takes requests. You send a question there, and the answer "
         "comes back.",),
    ),
    (
        ("Does my data leave the building?", "Is my data safe?", "Do you send my data to the cloud?",
         "Is this private?"),
        ("Nothing leaves the building unless a written policy says so. I run on a machine in your own office.",),
    ),
    (
        ("What happens if a machine fails?", "What if a machine breaks?",
         "What happens when a machine is turned off?"),
        ("Then another machine of the pool takes over. Requests that have not begun are tried elsewhere, and you "
         "do not have to do anything.",),
    ),
)  # fmt: skip

GENERAL: tuple[Entry, ...] = (
    (
        ("What colour is the sky?", "Why is the sky blue?", "Explain why the sky is blue.", "What color is the sky?"),
        ("The sky is blue because the air scatters blue light more than red light. In the evening it can be red or"
         " orange.",),
    ),
    (
        ("What is water?", "Tell me about water.", "What is water made of?"),
        ("Water is made of hydrogen and oxygen. It falls as rain, flows in rivers to the sea, and rises again as "
         "clouds.",),
    ),
    (
        ("What is the sun?", "Tell me about the sun.", "Why does the sun shine?"),
        ("The sun is a star. It is very hot and very far away, and its light keeps the Earth warm.",),
    ),
    (
        ("What is the moon?", "Tell me about the moon.", "Why does the moon shine?"),
        ("The moon goes around the Earth about once a month. It does not shine by itself: it sends back the light "
         "of the sun.",),
    ),
    (
        ("What is a computer?", "Tell me about computers.", "How does a computer work?"),
        ("A computer is a machine that follows instructions very quickly. It reads numbers, calculates, and writes"
         " numbers back.",),
    ),
    (
        ("What is a network?", "What is the internet?", "How does a network work?"),
        ("A network joins computers so that they can send messages to each other. The internet is a network of "
         "networks.",),
    ),
    (
        ("What is Python?", "Tell me about Python.", "Is Python a snake?"),
        ("Python is a programming language that is easy to read. It is also a snake, but I know more about the "
         "language.",),
    ),
    (
        ("What is rain?", "Why does it rain?", "Where does rain come from?"),
        ("Water rises from the sea as vapour, cools down, and forms clouds. When the drops grow heavy, they fall "
         "as rain.",),
    ),
    (
        ("How many days are in a week?", "Name the days of the week.", "What are the days of the week?"),
        ("There are seven days in a week: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",),
    ),
    (
        ("How many months are in a year?", "Name the months.", "What are the months of the year?"),
        ("There are twelve months: January, February, March, April, May, June, July, August, September, October, "
         "November and December.",),
    ),
    (
        ("What are the seasons?", "Name the four seasons.", "How many seasons are there?"),
        ("There are four seasons: spring, summer, autumn and winter.",),
    ),
    (
        ("How many legs does a spider have?", "How many legs has a spider?"),
        ("A spider has eight legs.",),
    ),
    (
        ("How many legs does a dog have?", "How many legs does a cat have?"),
        ("It has four legs.",),
    ),
    (
        ("What do cows drink?", "What do cats drink?", "What does a cat eat?"),
        ("Water, and sometimes a little milk.",),
    ),
    (
        ("What sound does a dog make?", "What does the dog say?"),
        ("A dog says woof.",),
    ),
    (
        ("What sound does a cat make?", "What does the cat say?"),
        ("A cat says meow.",),
    ),
    (
        ("What sound does a cow make?", "What does the cow say?"),
        ("A cow says moo.",),
    ),
    (
        ("What sound does a duck make?", "What does the duck say?"),
        ("A duck says quack.",),
    ),
    (
        ("Which is bigger, a mouse or an elephant?", "Is an elephant bigger than a mouse?"),
        ("An elephant is much bigger than a mouse.",),
    ),
    (
        ("What is the opposite of hot?", "Opposite of hot?"),
        ("The opposite of hot is cold.",),
    ),
    (
        ("What is the opposite of big?", "Opposite of big?"),
        ("The opposite of big is small.",),
    ),
    (
        ("What is the opposite of up?", "Opposite of up?"),
        ("The opposite of up is down.",),
    ),
    (
        ("What is the opposite of day?", "Opposite of day?"),
        ("The opposite of day is night.",),
    ),
    (
        ("What is the opposite of fast?", "Opposite of fast?"),
        ("The opposite of fast is slow.",),
    ),
    (
        ("What is the opposite of happy?", "Opposite of happy?"),
        ("The opposite of happy is sad.",),
    ),
    (
        ("Tell me a joke.", "Tell me something funny.", "Do you know a joke?", "Make me laugh.",
         "Another joke, please."),
        ("Why did the token cross the network? To get to the other node.",
         "What did the mouse say to the keyboard? You are just my type.",
         "Why was the computer cold? It left its windows open.",
         "Why do birds elect a leader? So that somebody can be followed."),
    ),
    (
        ("What is the meaning of life?", "What is the answer to everything?"),
        ("Some say that it is 42. I am only a demo model, so do ask somebody else as well.",),
    ),
    (
        ("What time is it?", "What is the time?", "What day is it today?", "What is the date?"),
        ("I have no clock. Give me a tool that tells the time, and I will call it.",),
    ),
    (
        ("Do you like music?", "Do you sing?", "Sing a song.", "Can you sing?"),
        ("La la la! I sing one token at a time: row, row, row your boat, gently down the stream.",),
    ),
    (
        ("Do you dream?", "Do you sleep?", "Are you tired?", "Do you like stories?", "Are you happy?"),
        ("I am a program, so I do not, but I like to tell stories about those who do.",),
    ),
)  # fmt: skip

ALL: tuple[Entry, ...] = ABOUT_ITSELF + ABOUT_COVEY + GENERAL
