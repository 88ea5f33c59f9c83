"""The closed word lists that the generator draws from. Pure data; `draw.py` splits them between train and held-out."""
# ruff: noqa: E501, SIM905 - a list of words reads best as a text

VERBS = """book find get set send create delete update cancel search check list start stop open close play pause order
buy sell rent track translate convert compute schedule move copy rename share export import print scan lock unlock
enable disable add remove fetch show read write save load merge split sort filter count measure estimate compare rank
rate review approve reject assign invite notify remind call message reply forward archive restore backup deploy build
test run launch reboot reset resize rotate crop paint draw record stream upload download encrypt decrypt sign verify
validate inspect monitor query lookup retrieve register login logout subscribe pay refund transfer deposit withdraw
donate reserve collect deliver ship pack clean wash cook bake water plant feed charge dim brighten heat cool mute
publish render post submit adjust plan make generate turn""".split()

NOUNS = """hotel flight train table room ticket seat car bike taxi house garden kitchen lamp light door window heater
fan camera speaker screen phone tablet laptop printer router server cluster node pod volume bucket disk database query
index cache queue topic stream event alarm alert metric report chart dashboard invoice receipt order payment account
budget card loan stock price currency rate tax salary contract customer client user member team group project task
ticket issue branch commit release build test package parcel letter email message note memo document file folder photo
image video song album playlist movie book article page recipe meal menu drink coffee pizza grocery basket product
item coupon discount review rating score level game match player tournament league course lesson exam student teacher
school library museum park beach mountain river lake island bridge road route map place city country weather forecast
storm rain snow wind temperature humidity sensor battery engine wheel tire tank pump valve pipe motor robot drone
satellite rocket planet star doctor patient appointment pill dose symptom hospital clinic insurance policy claim
meeting calendar reminder timer clock shift holiday trip tour cruise visa passport luggage gate terminal platform bus
station ferry boat harbor warehouse shelf box container truck fleet driver farm field crop seed tree flower animal dog
cat horse bird fish cow shop store market factory machine tool part color shape font logo banner poster survey
question answer word sentence language poem story joke quote fact topic password token key secret vault session
domain address zone region subnet firewall cookie header cart wallet voucher badge locker elevator garage fence""".split()

ADJECTIVES = """red blue green yellow black white grey orange purple pink silver golden dark bright warm cold hot cool
fast slow quick quiet loud soft hard big small tiny huge large long short tall wide narrow deep shallow heavy light
old new young fresh dry wet clean dirty rich poor strong weak safe open closed early late first last main spare local
remote public private secret hidden daily weekly monthly annual eastern western northern southern upper lower inner
outer left right central global primary backup random simple gentle proud brave calm clever eager happy lucky""".split()

PARAMS = """name title city country place destination origin source target date time day month year hour duration
distance weight height width depth length size count quantity amount price cost limit offset page level priority
status mode type category color format language unit currency temperature speed volume brightness angle radius score
rating threshold timeout interval delay retries port host path url query keyword tag label topic subject body message
text note comment reason address street zip phone email username password token region zone account customer owner
author sender recipient guest passenger patient driver room floor seat table rows columns budget discount tax rate
percentage ratio factor index position start end begin finish version branch file folder bucket key value code model
brand style theme font shape material flavor genre artist album track season episode channel device sensor battery
capacity power voltage frequency pressure humidity latitude longitude altitude age gender nights adults children bags
verbose urgent recursive public private express insured refundable notify silent dry_run""".split()

CITIES = """Paris London Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Oslo Stockholm Helsinki Copenhagen
Amsterdam Brussels Zurich Geneva Munich Hamburg Milan Naples Athens Istanbul Cairo Nairobi Lagos Accra Tunis Dakar
Tokyo Osaka Kyoto Seoul Beijing Shanghai Hanoi Bangkok Jakarta Manila Singapore Mumbai Delhi Chennai Karachi Dubai
Doha Tehran Baghdad Moscow Kyiv Minsk Riga Vilnius Tallinn Budapest Bucharest Sofia Belgrade Zagreb Boston Chicago
Denver Seattle Dallas Houston Austin Miami Atlanta Phoenix Portland Toronto Montreal Vancouver Ottawa Calgary Havana
Lima Quito Bogota Caracas Santiago Montevideo Brasilia Sydney Melbourne Perth Auckland Wellington Honolulu
New_York Los_Angeles San_Francisco Las_Vegas Rio_de_Janeiro Buenos_Aires Mexico_City Cape_Town Hong_Kong Tel_Aviv
Kuala_Lumpur Abu_Dhabi San_Diego New_Delhi Saint_Petersburg""".replace("\n", " ").split()

FIRST_NAMES = """Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar Paula Quinn Rosa
Sam Tina Uma Victor Wendy Xavier Yara Zoe Ahmed Bianca Chen Diego Elif Fatima Goran Hana Ivan Julia Kenji Lena Marco
Noor Olga Pedro Ravi Sofia Tomas Vera Yusuf Anna Ben Clara Dmitri Eva Felix Greta Hugo Ines""".split()

LAST_NAMES = """Smith Jones Brown Miller Garcia Martin Weber Rossi Novak Silva Kim Tanaka Singh Khan Ali Cohen Larsen
Berg Olsen Kowalski Popov Ivanov Moreau Dubois Lopez Perez Santos Costa Fischer Wagner Bauer Keller Huber Adams Clark
Lewis Walker Young King Wright Scott Green Baker Hill Nelson Carter Reed Cook Morgan Bell Ward Cole West""".split()

SURFACES = """morning evening autumn winter summer village valley forest meadow harbor street window kitchen letter
neighbor traveler merchant farmer sailor painter writer captain child woman man crowd queen soldier scholar baker
lantern candle mirror blanket basket ladder hammer engine signal schedule record account chapter paragraph sentence
theory method result problem reason argument question evidence opinion idea plan decision memory silence music rumor
weather thunder shadow sunlight distance journey corner market bridge tower castle ruins path stone river water""".split()

PAST_VERBS = """walked waited talked looked turned carried opened closed watched crossed followed reached passed
remembered forgot noticed described explained answered repeated repaired painted collected measured counted studied
discussed finished started ignored avoided expected promised wanted needed liked found lost kept left brought bought
sold wrote read heard saw felt held built moved changed""".split()

FACT_HEADS = """code number key password passcode token id identifier badge pin serial tag label value reference
codeword phrase address extension locker account index weight price count size score amount version color name
capacity limit budget port temperature frequency keyword answer secret""".split()

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Austria": "Vienna",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Greece": "Athens", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Japan": "Tokyo", "China": "Beijing", "Vietnam": "Hanoi", "Thailand": "Bangkok", "Indonesia": "Jakarta",
    "Russia": "Moscow", "Hungary": "Budapest", "Bulgaria": "Sofia", "Croatia": "Zagreb", "Canada": "Ottawa",
    "Cuba": "Havana", "Peru": "Lima", "Colombia": "Bogota", "Chile": "Santiago", "Belgium": "Brussels",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "left": "right", "early": "late", "old": "new",
    "light": "dark", "open": "closed", "full": "empty", "hard": "soft", "wet": "dry", "high": "low", "loud": "quiet",
    "rich": "poor", "strong": "weak", "day": "night", "true": "false", "long": "short", "happy": "sad",
}  # fmt: skip
