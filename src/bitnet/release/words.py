"""A digest as words that two people can compare over a telephone.

Bytes at even places are words of two syllables, bytes at odd places words of three: a word that is
left out, said twice or exchanged with its neighbour is heard at once. The two lists are ours. Any
two words of a list differ in at least three sounds and in their first four letters (checked with a
pronouncing dictionary when the lists were chosen); nothing but their order carries meaning, so they
must never change.
"""

from typing import Final

__all__ = ["WORDS_THREE", "WORDS_TWO", "group_hex", "to_words", "words_to_bytes"]

# 256 words of two syllables, in alphabetical order: the byte is the index.
_TWO: Final = (
    "acorn angel antler apron aspen atlas attic autumn award bacon bamboo bandage banjo "
    "barley beaver bedroom bishop blanket blossom border bracelet branches breakfast bronco "
    "buffet bugle cabbage cactus canoe canyon carbon cargo cavern chamber charcoal cheetah "
    "cherry chestnut chimney citrus clever cobalt cobra cocoa coffee compass concert cradle "
    "crater cricket crimson crystal cupboard cushion daisy dancer daylight decade delta "
    "desert dolphin donkey doorbell dragon drizzle dungeon earring eclipse elbow enzyme exit "
    "fabric falcon farmer feather fidget finger flannel fountain foxglove freezer fungus "
    "furnace garlic gasket gazelle gentle ginger giraffe glacier goblet goggles golden gopher "
    "gospel granite guitar harvest hatchet hazel helmet hopscotch hornet hunter husky hyphen "
    "igloo insect iron island jaguar jasmine jigsaw judo kayak ketchup kingdom lagoon lantern "
    "laundry lava lawyer leopard lobster locust logic magnet magpie mallet mango market "
    "mentor merchant midnight modem mushroom mustard napkin nectar nephew nomad nugget nutmeg "
    "oatmeal office olive orange orchard ostrich outlaw oxide padlock pageant pancake parade "
    "parcel pastry patrol pelvis penguin picnic pillow piston plaster plumber polka poncho "
    "present pretzel profit pudding puffin pumpkin python quarter quota raccoon radar raisin "
    "ramble rapids relish rhubarb ruby rustic saffron sandal scarlet scissors scooter seesaw "
    "sequel shovel shower silver sketchbook skyline slipper snorkel sonnet sparrow spider "
    "spinach spiral sponges stable statue stencil stomach sturdy sunset swallow tadpole "
    "tariff teapot temple tiger tinsel topaz torso tractor traffic trapeze treasure trumpet "
    "tulip tundra turbine turtle tweezers twilight uncle unit upstairs utmost vacuum valley "
    "vampire vanish vendor verdict vineyard vodka voyage vulture walnut warden welcome "
    "whisper window wombat woodland workshop yogurt zenith zigzag"
)

# 256 words of three syllables.
_THREE: Final = (
    "abandon adventure albatross alchemist alfalfa alkaline almanac alphabet amethyst ammonia "
    "anagram apartment apprentice apricot artichoke asterisk astronaut atmosphere aubergine "
    "badminton balloonist barbecue barnacle bartender basketball bayonet blackberry bolero "
    "bonanza boulevard bravado broadcaster bulldozer bumblebee buttercup calculus candidate "
    "cantaloupe caravan cardigan caribou catapult cathedral celebrate cellular champion "
    "chandelier chimpanzee chinchilla chrysalis citadel clarinet classical columbine "
    "companion conductor consonant container cosmonaut costumer crocodile cucumber cultural "
    "daffodil dentistry derelict dinosaur diploma disciple dolomite electric embroider enigma "
    "epilogue espresso evergreen example explorer fandango festival fiberglass fisherman "
    "flamenco flexible florida flotilla formula fortieth furniture galaxy gingerbread "
    "glossary gondola graduate hamburger handkerchief harmonic harvester helium hexagon "
    "holiday honeycomb horizon hospital hyacinth hydrogen iguana immigrant impulsive incubate "
    "industry interview isotope italic jacuzzi jellyfish kangaroo kilobyte labyrinth ladybug "
    "lavender library licorice lieutenant limousine magnolia manuscript margarine marigold "
    "marmalade marzipan mascara meadowlark mechanic medallion mercury messenger millionaire "
    "monarchy monument mosquito motorboat musician navigate negative neighborhood newspaper "
    "nightingale nobleman novelist objective observer october omnibus operate orchestra "
    "otherwise outrigger pacific pajamas paprika pastrami patriot pedestal pendulum pentagon "
    "performer periscope pharmacy photograph pianist pineapple polaroid pollution porcelain "
    "president professor publisher pyramid quadruple quality quicksilver rectangle register "
    "rehearsal reporter republic revolver rhapsody ridicule robotic rosemary sabotage "
    "sandpaper satisfy saxophone scaffolding scorpion semester shoemaker signature skeleton "
    "solitude sombrero souvenir spaghetti spatula spectacle stadium stationer strawberry "
    "stupendous submarine sugary survivor sycamore symphony syndicate synthesis taxation "
    "thermostat tobacco tornado tradition trampoline treasury triangle trinity trombonist "
    "turbulent turpentine tuxedo typewriter umbrella underground unicorn universe utensil "
    "vehicle ventricle verify vermilion vibrato viola virtual volcano volleyball waterfall "
    "wilderness wintergreen wolverine woodpecker xylophone yesterday zodiac zucchini"
)

WORDS_TWO: Final[tuple[str, ...]] = tuple(_TWO.split())
WORDS_THREE: Final[tuple[str, ...]] = tuple(_THREE.split())


def to_words(data: bytes) -> list[str]:
    """Returns one word a byte."""
    lists = (WORDS_TWO, WORDS_THREE)
    return [lists[index % 2][byte] for index, byte in enumerate(data)]


def words_to_bytes(words: list[str]) -> bytes | None:
    """Returns what `words` stand for, or None where one is not of the list of its place."""
    lists = (WORDS_TWO, WORDS_THREE)
    try:
        return bytes(lists[index % 2].index(word.lower()) for index, word in enumerate(words))
    except ValueError:
        return None


def group_hex(digest: str, size: int = 8) -> list[str]:
    """Returns hex digits in groups of `size`, to be read aloud or compared by eye."""
    return [digest[at : at + size] for at in range(0, len(digest), size)]
