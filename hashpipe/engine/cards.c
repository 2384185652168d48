/* cards.c -- keyword and value cards of the status buffer, in the style of FITS headers.
 *
 * A card is 80 characters: the keyword in 8, "= ", the value.  Strings stand in quotes, a quote
 * within is doubled.  The card "END" closes the list; after it there are blanks only.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "hashpipe.h"

enum {
	CARD = HASHPIPE_STATUS_RECORD_SIZE,
	CARDS = HASHPIPE_STATUS_TOTAL_SIZE / HASHPIPE_STATUS_RECORD_SIZE,
	KEY = 8,
	VALUE_AT = KEY + 2,
	NUMBER_END = 30, /* numbers are right-justified up to here */
	STRING_MAX = 67, /* as in HASHPIPE; the card would have room for one more */
	STRING_MIN = 8,	 /* shorter ones are padded */
};

static const char END[KEY + 1] = "END     ";

/* The keyword as it stands on a card. */
static void card_key(char key[KEY], const char *keyword)
{
	size_t n = strnlen(keyword, KEY);

	memset(key, ' ', KEY);
	memcpy(key, keyword, n);
}

/* Number of the card with this key, or of the END card; CARDS if there is neither. */
static int find(const char *buf, const char *key)
{
	int k;

	for (k = 0; k < CARDS; k++) {
		const char *card = buf + k * CARD;

		if (!memcmp(card, key, KEY) || !memcmp(card, END, KEY))
			break;
	}
	return k;
}

/* The card of this keyword, NULL if there is none. */
static const char *find_card(const char *buf, const char *keyword)
{
	char key[KEY];
	int k;

	card_key(key, keyword);
	k = find(buf, key);
	return k < CARDS && memcmp(buf + k * CARD, END, KEY) ? buf + k * CARD : NULL;
}

/* Writes a card, in place of the one with this keyword or before END. */
static int put_card(char *buf, const char *keyword, const char *value, size_t length)
{
	char key[KEY];
	char *card;
	int k;

	card_key(key, keyword);
	k = find(buf, key);
	card = buf + k * CARD;
	if (k == CARDS)
		return -1;
	if (!memcmp(card, END, KEY)) {
		if (k == CARDS - 1 || !memcmp(key, END, KEY))
			return -1;
		memcpy(card + CARD, card, CARD);
	}
	memset(card, ' ', CARD);
	memcpy(card, key, KEY);
	card[KEY] = '=';
	memcpy(card + VALUE_AT, value, length);
	return 0;
}

int hputs(char *buf, const char *keyword, const char *value)
{
	char text[CARD];
	size_t n = 0, kept = 0;

	text[n++] = '\'';
	for (; *value && kept < STRING_MAX; value++, kept++) {
		if (n + (*value == '\'') >= CARD - VALUE_AT - 1)
			break;
		if (*value == '\'')
			text[n++] = '\'';
		text[n++] = (unsigned char)*value < ' ' ? ' ' : *value;
	}
	for (; kept < STRING_MIN; kept++)
		text[n++] = ' ';
	text[n++] = '\'';
	return put_card(buf, keyword, text, n);
}

/* A value without quotes, right-justified if it is short. */
static int put_number(char *buf, const char *keyword, const char *number)
{
	char text[CARD - VALUE_AT + 1];
	int n = snprintf(text, sizeof(text), "%*s", NUMBER_END - VALUE_AT, number);

	return put_card(buf, keyword, text,
			(size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

int hputi8(char *buf, const char *keyword, int8 value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", value);
	return put_number(buf, keyword, text);
}

int hputu8(char *buf, const char *keyword, uint8 value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", value);
	return put_number(buf, keyword, text);
}

int hputi2(char *buf, const char *keyword, short value)
{
	return hputi8(buf, keyword, value);
}

int hputi4(char *buf, const char *keyword, int value)
{
	return hputi8(buf, keyword, value);
}

int hputu4(char *buf, const char *keyword, unsigned int value)
{
	return hputu8(buf, keyword, value);
}

int hputr4(char *buf, const char *keyword, float value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.9g", (double)value);
	return put_number(buf, keyword, text);
}

int hputr8(char *buf, const char *keyword, double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.17g", value);
	return put_number(buf, keyword, text);
}

int hputnr8(char *buf, const char *keyword, int ndec, double value)
{
	char text[CARD - VALUE_AT + 1];

	snprintf(text, sizeof(text), "%.*f", ndec, value);
	return put_number(buf, keyword, text);
}

int hputl(char *buf, const char *keyword, int value)
{
	return put_number(buf, keyword, value ? "T" : "F");
}

/* The value on a card without quotes and outer blanks.  Returns its length, -1 if there is no such
 * card. */
static int value_of(const char *buf, const char *keyword, char text[CARD])
{
	const char *card = find_card(buf, keyword);
	const char *at, *end;
	int n = 0, first = 0;

	if (!card)
		return -1;
	at = card + VALUE_AT;
	end = card + CARD;
	while (at < end && *at == ' ')
		at++;
	if (at < end && *at == '\'') {
		for (at++; at < end; at++) {
			if (*at == '\'' && (at + 1 == end || *++at != '\''))
				break;
			text[n++] = *at;
		}
	} else {
		for (; at < end && *at != '/'; at++)
			text[n++] = *at;
	}
	while (n && text[n - 1] == ' ')
		n--;
	while (first < n && text[first] == ' ')
		first++;
	memmove(text, text + first, (size_t)(n - first));
	text[n - first] = '\0';
	return n - first;
}

int hgets(const char *buf, const char *keyword, int n, char *value)
{
	char text[CARD];
	int length = value_of(buf, keyword, text);

	if (length < 0)
		return 0;
	if (length >= n)
		memcpy(value, text, n > 0 ? (size_t)n - 1 : 0);
	else
		memcpy(value, text, (size_t)length + 1);
	return 1;
}

int hgetr8(const char *buf, const char *keyword, double *value)
{
	char text[CARD], *end;
	double number;

	if (value_of(buf, keyword, text) <= 0)
		return 0;
	number = strtod(text, &end);
	if (*end)
		return 0;
	*value = number;
	return 1;
}

int hgetr4(const char *buf, const char *keyword, float *value)
{
	double number;

	if (!hgetr8(buf, keyword, &number))
		return 0;
	*value = (float)number;
	return 1;
}

/* A whole number between the limits, cut to them; decimals are dropped. */
static int get_whole(const char *buf, const char *keyword, long long least, long long most,
		     long long *value)
{
	char text[CARD], *end;
	double real;

	if (value_of(buf, keyword, text) <= 0)
		return 0;
	*value = strtoll(text, &end, 10);
	if (*end) {
		real = strtod(text, &end);
		if (*end || real != real)
			return 0;
		*value = real >= 9.2e18 ? LLONG_MAX : real <= -9.2e18 ? LLONG_MIN : (long long)real;
	}
	*value = *value < least ? least : *value > most ? most : *value;
	return 1;
}

int hgeti8(const char *buf, const char *keyword, int8 *value)
{
	long long number;

	if (!get_whole(buf, keyword, LLONG_MIN, LLONG_MAX, &number))
		return 0;
	*value = number;
	return 1;
}

int hgeti4(const char *buf, const char *keyword, int *value)
{
	long long number;

	if (!get_whole(buf, keyword, INT_MIN, INT_MAX, &number))
		return 0;
	*value = (int)number;
	return 1;
}

int hgeti2(const char *buf, const char *keyword, short *value)
{
	long long number;

	if (!get_whole(buf, keyword, SHRT_MIN, SHRT_MAX, &number))
		return 0;
	*value = (short)number;
	return 1;
}

int hgetu4(const char *buf, const char *keyword, unsigned int *value)
{
	long long number;

	if (!get_whole(buf, keyword, 0, UINT_MAX, &number))
		return 0;
	*value = (unsigned int)number;
	return 1;
}

int hgetu8(const char *buf, const char *keyword, uint8 *value)
{
	char text[CARD], *end;
	unsigned long long number;

	if (value_of(buf, keyword, text) <= 0 || *text == '-')
		return 0;
	number = strtoull(text, &end, 10);
	if (*end)
		return 0;
	*value = number;
	return 1;
}

int hgetl(const char *buf, const char *keyword, int *value)
{
	char text[CARD];

	if (value_of(buf, keyword, text) <= 0)
		return 0;
	*value = *text == 'T' || *text == 't';
	return 1;
}

int hdel(char *buf, const char *keyword)
{
	char *card = (char *)find_card(buf, keyword), *last = buf + (CARDS - 1) * CARD;

	if (!card)
		return 0;
	memmove(card, card + CARD, (size_t)(last - card));
	memset(last, ' ', CARD);
	return 1;
}
