"""Sixty prompts of three domains, and second turns for a chat: the load of tests and benches."""

MATH = [
    "Tom has 12 apples and buys 7 more. He gives 5 to his sister. How many are left?",
    "A train travels 60 miles in 1.5 hours. What is its average speed?",
    "What is the sum of the first 20 positive integers?",
    "Solve for x: 3x + 7 = 25.",
    "A rectangle is 8 cm long and 5 cm wide. Find its area and its perimeter.",
    "If 4 pencils cost 60 cents, how much do 10 pencils cost?",
    "Find the greatest common divisor of 84 and 126.",
    "What is 15 percent of 240?",
    "The angles of a triangle are in the ratio 2 : 3 : 4. Find the largest angle.",
    "How many ways can 5 books be arranged on a shelf?",
    "A shop sells shirts at $18 after a discount of 25%. What was the price before?",
    "Simplify the expression 2(x - 3) + 4(2x + 1).",
    "What is the probability of rolling two sixes with two fair dice?",
    "A tank is filled in 6 hours by one pipe and in 3 hours by another. How long together?",
    "Find the value of 2^10 - 2^8.",
    "The mean of five numbers is 14. Four of them are 10, 12, 15 and 18. Find the fifth.",
    "A circle has a radius of 7 units. What is its circumference?",
    "Sarah saves $35 a week. After how many weeks does she have at least $400?",
    "Find all integers n such that n^2 < 30.",
    "The product of two consecutive even numbers is 168. What are they?",
]

CODE = [
    "Write a Python function that reverses a string.",
    "Write a function to check whether a number is prime.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "How do I list all files in a directory from the command line?",
    "Write a function that counts the vowels in a text.",
    "Implement binary search over a sorted list in Python.",
    "Write a Python class for a stack with push, pop and peek.",
    "Show how to read a CSV file in Python and print each row.",
    "Write a function that merges two sorted lists.",
    "Write a Python function that computes the factorial of n.",
    "How do I undo the last git commit and keep the changes?",
    "Write a function that removes duplicates from a list and keeps the order.",
    "Implement bubble sort in Python.",
    "Write a function that checks whether a string is a palindrome.",
    "Write JavaScript code that sums an array of numbers.",
    "Write a Python decorator that prints how long a function took.",
    "Write a function that converts Celsius to Fahrenheit.",
    "Write a function that finds the two largest numbers in a list.",
    "Explain what the command tar -xzf archive.tar.gz does.",
    "Write a Python function that flattens a nested list.",
]

CHAT = [
    "I want to book a table for two people tonight. Can you help me?",
    "Tell me a short story about a dragon who is afraid of fire.",
    "What are three good habits for a healthy life?",
    "Please find me a flight from London to Paris on the 5th of March.",
    "Who wrote Romeo and Juliet?",
    "I need a cheap hotel near the city centre for three nights.",
    "What is the difference between a lake and a sea?",
    "Write a friendly email to thank a colleague for their help.",
    "Can you recommend a good action movie?",
    "Act as a pirate and greet your crew.",
    "Why is the sky blue?",
    "I would like to order a large pizza with mushrooms.",
    "Give me some ideas for a birthday party.",
    "What is the capital of Australia?",
    "I am looking for a restaurant that serves Indian food.",
    "Describe the taste of chocolate to someone who never had it.",
    "How can I fall asleep faster?",
    "Can you tell me the weather for tomorrow in Boston?",
    "Name five animals that live in the desert.",
    "What should I pack for a weekend in the mountains?",
]

PROMPTS = MATH + CODE + CHAT

SECOND_TURNS = [
    "Thank you. Now explain it again in simpler words, with one example.",
    "Are you sure? Please check every step and say what could go wrong.",
    "Good. Give me another one like it, but a little harder than before.",
]


def mixed_prompts(count: int) -> list[str]:
    """`count` prompts, the three domains taking turns."""
    mixed = [prompt for trio in zip(MATH, CODE, CHAT, strict=True) for prompt in trio]
    return [mixed[i % len(mixed)] for i in range(count)]
