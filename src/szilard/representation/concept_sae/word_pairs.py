"""Counterfactual word pairs: the two words of a pair differ in one concept and, as far as words allow, in nothing else.

Written for this project. Forms of one word stand in one line; every concept is two columns of such a table.
"""

from __future__ import annotations

_VERBS = """
accept accepts accepting accepted
add adds adding added
allow allows allowing allowed
appear appears appearing appeared
ask asks asking asked
believe believes believing believed
call calls calling called
carry carries carrying carried
change changes changing changed
consider considers considering considered
create creates creating created
decide decides deciding decided
describe describes describing described
develop develops developing developed
enjoy enjoys enjoying enjoyed
expect expects expecting expected
explain explains explaining explained
follow follows following followed
happen happens happening happened
help helps helping helped
improve improves improving improved
include includes including included
involve involves involving involved
join joins joining joined
learn learns learning learned
listen listens listening listened
manage manages managing managed
move moves moving moved
offer offers offering offered
open opens opening opened
play plays playing played
produce produces producing produced
provide provides providing provided
reach reaches reaching reached
receive receives receiving received
remain remains remaining remained
remember remembers remembering remembered
remove removes removing removed
return returns returning returned
suggest suggests suggesting suggested
talk talks talking talked
walk walks walking walked
want wants wanting wanted
work works working worked
"""
_ADJECTIVES = """
big bigger biggest
bright brighter brightest
broad broader broadest
cheap cheaper cheapest
clean cleaner cleanest
clear clearer clearest
cold colder coldest
cool cooler coolest
dark darker darkest
deep deeper deepest
dry drier driest
early earlier earliest
easy easier easiest
fast faster fastest
fresh fresher freshest
great greater greatest
happy happier happiest
hard harder hardest
heavy heavier heaviest
high higher highest
hot hotter hottest
kind kinder kindest
large larger largest
light lighter lightest
long longer longest
loud louder loudest
low lower lowest
narrow narrower narrowest
new newer newest
old older oldest
poor poorer poorest
quick quicker quickest
rich richer richest
safe safer safest
short shorter shortest
simple simpler simplest
slow slower slowest
small smaller smallest
smart smarter smartest
soft softer softest
strong stronger strongest
sweet sweeter sweetest
tall taller tallest
thick thicker thickest
thin thinner thinnest
warm warmer warmest
weak weaker weakest
wide wider widest
wild wilder wildest
young younger youngest
"""
_NOUNS = """
animal animals
apple apples
baby babies
bank banks
bird birds
boat boats
book books
bottle bottles
box boxes
bridge bridges
building buildings
camera cameras
car cars
cat cats
chair chairs
church churches
city cities
cloud clouds
computer computers
country countries
dog dogs
door doors
engine engines
eye eyes
family families
farm farms
flower flowers
friend friends
garden gardens
hand hands
hill hills
horse horses
house houses
island islands
key keys
lake lakes
letter letters
machine machines
mountain mountains
office offices
picture pictures
river rivers
road roads
school schools
ship ships
song songs
student students
table tables
tree trees
window windows
"""
_PEOPLE = """
actor actress
boy girl
brother sister
businessman businesswoman
chairman chairwoman
count countess
dad mom
duke duchess
emperor empress
father mother
fatherhood motherhood
fiance fiancee
gentleman lady
god goddess
grandfather grandmother
grandpa grandma
grandson granddaughter
guy gal
he she
heir heiress
hero heroine
him her
himself herself
host hostess
husband wife
king queen
landlord landlady
male female
man woman
masculine feminine
men women
monk nun
nephew niece
policeman policewoman
prince princess
salesman saleswoman
schoolboy schoolgirl
sir madam
son daughter
spokesman spokeswoman
sportsman sportswoman
stepfather stepmother
stepson stepdaughter
uncle aunt
waiter waitress
widower widow
wizard witch
"""
_COUNTRIES = """
Afghanistan Kabul
Albania Tirana
Algeria Algiers
Australia Canberra
Austria Vienna
Bangladesh Dhaka
Belgium Brussels
Bulgaria Sofia
Canada Ottawa
Chile Santiago
China Beijing
Colombia Bogota
Croatia Zagreb
Cuba Havana
Denmark Copenhagen
Egypt Cairo
Estonia Tallinn
Finland Helsinki
France Paris
Germany Berlin
Ghana Accra
Greece Athens
Hungary Budapest
India Delhi
Indonesia Jakarta
Iran Tehran
Iraq Baghdad
Ireland Dublin
Italy Rome
Japan Tokyo
Kenya Nairobi
Latvia Riga
Lebanon Beirut
Lithuania Vilnius
Morocco Rabat
Nepal Kathmandu
Norway Oslo
Pakistan Islamabad
Peru Lima
Poland Warsaw
Portugal Lisbon
Romania Bucharest
Russia Moscow
Senegal Dakar
Serbia Belgrade
Spain Madrid
Sweden Stockholm
Thailand Bangkok
Turkey Ankara
Ukraine Kyiv
Vietnam Hanoi
"""
_CAPITALS = """
always Always
american American
around Around
because Because
before Before
business Business
children Children
company Company
december December
during During
education Education
english English
every Every
family Family
first First
french French
friday Friday
general General
government Government
health Health
history History
however However
important Important
january January
language Language
money Money
monday Monday
music Music
national National
never Never
nothing Nothing
people People
perhaps Perhaps
please Please
president President
question Question
science Science
second Second
service Service
several Several
social Social
society Society
sometimes Sometimes
special Special
summer Summer
system System
there There
water Water
world World
yesterday Yesterday
"""
_AGENTS = """
bake baker
bank banker
build builder
clean cleaner
compose composer
dance dancer
design designer
drive driver
employ employer
explore explorer
farm farmer
fight fighter
hunt hunter
lead leader
learn learner
manage manager
murder murderer
open opener
organize organizer
own owner
paint painter
perform performer
photograph photographer
play player
produce producer
program programmer
publish publisher
read reader
report reporter
research researcher
ride rider
rule ruler
run runner
sing singer
speak speaker
support supporter
swim swimmer
teach teacher
think thinker
train trainer
travel traveler
win winner
work worker
write writer
"""
_ADVERBS = """
actual actually
apparent apparently
brief briefly
careful carefully
certain certainly
clear clearly
common commonly
complete completely
constant constantly
correct correctly
current currently
deep deeply
direct directly
equal equally
exact exactly
final finally
frequent frequently
full fully
general generally
gentle gently
gradual gradually
immediate immediately
independent independently
late lately
legal legally
local locally
natural naturally
normal normally
obvious obviously
original originally
perfect perfectly
personal personally
quick quickly
quiet quietly
rapid rapidly
rare rarely
real really
recent recently
regular regularly
serious seriously
similar similarly
slow slowly
strong strongly
sudden suddenly
typical typically
usual usually
"""
_OPPOSITES = """
able unable
aware unaware
certain uncertain
clear unclear
comfortable uncomfortable
common uncommon
conscious unconscious
desirable undesirable
employed unemployed
equal unequal
expected unexpected
fair unfair
familiar unfamiliar
finished unfinished
fortunate unfortunate
friendly unfriendly
happy unhappy
healthy unhealthy
identified unidentified
important unimportant
interesting uninteresting
known unknown
likely unlikely
limited unlimited
lucky unlucky
married unmarried
necessary unnecessary
paid unpaid
pleasant unpleasant
popular unpopular
predictable unpredictable
protected unprotected
related unrelated
reliable unreliable
resolved unresolved
safe unsafe
stable unstable
successful unsuccessful
sure unsure
true untrue
usual unusual
wanted unwanted
"""
_LANGUAGES = """
apple pomme Apfel
bed lit Bett
bird oiseau Vogel
book livre Buch
bread pain Brot
bridge pont Brücke
brother frère Bruder
cheese fromage Käse
child enfant Kind
church église Kirche
city ville Stadt
cloud nuage Wolke
day jour Tag
dog chien Hund
door porte Tür
dream rêve Traum
egg œuf Ei
eye œil Auge
father père Vater
fire feu Feuer
fish poisson Fisch
flower fleur Blume
forest forêt Wald
garden jardin Garten
head tête Kopf
heart cœur Herz
horse cheval Pferd
house maison Haus
king roi König
language langue Sprache
life vie Leben
milk lait Milch
moon lune Mond
mother mère Mutter
mountain montagne Berg
night nuit Nacht
river fleuve Fluss
school école Schule
sea mer Meer
shoe chaussure Schuh
sister sœur Schwester
snow neige Schnee
star étoile Stern
street rue Straße
sun soleil Sonne
tree arbre Baum
water eau Wasser
window fenêtre Fenster
year an Jahr
"""
_NUMBERS = """
1 one
2 two
3 three
4 four
5 five
6 six
7 seven
8 eight
9 nine
10 ten
11 eleven
12 twelve
13 thirteen
14 fourteen
15 fifteen
16 sixteen
17 seventeen
18 eighteen
19 nineteen
20 twenty
30 thirty
40 forty
50 fifty
60 sixty
70 seventy
80 eighty
90 ninety
100 hundred
1000 thousand
1000000 million
"""


def _columns(table: str, first: int, second: int) -> tuple[tuple[str, str], ...]:
    rows = [line.split() for line in table.split("\n") if line]
    return tuple((row[first], row[second]) for row in rows)


WORD_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "verb-3pSg": _columns(_VERBS, 0, 1),
    "verb-Ving": _columns(_VERBS, 0, 2),
    "verb-Ved": _columns(_VERBS, 0, 3),
    "Ving-Ved": _columns(_VERBS, 2, 3),
    "verb-V+er": _columns(_AGENTS, 0, 1),
    "noun-plural": _columns(_NOUNS, 0, 1),
    "adj-comparative": _columns(_ADJECTIVES, 0, 1),
    "adj-superlative": _columns(_ADJECTIVES, 0, 2),
    "adj-adj+ly": _columns(_ADVERBS, 0, 1),
    "adj-un+adj": _columns(_OPPOSITES, 0, 1),
    "lower-upper": _columns(_CAPITALS, 0, 1),
    "male-female": _columns(_PEOPLE, 0, 1),
    "country-capital": _columns(_COUNTRIES, 0, 1),
    "digit-word": _columns(_NUMBERS, 0, 1),
    "English-French": _columns(_LANGUAGES, 0, 1),
    "English-German": _columns(_LANGUAGES, 0, 2),
    "French-German": _columns(_LANGUAGES, 1, 2),
}
