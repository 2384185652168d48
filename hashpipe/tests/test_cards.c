/* The status buffer: cards as HASHPIPE has them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"

static char *buf;

static void clear(void)
{
	memset(buf, ' ', HASHPIPE_STATUS_TOTAL_SIZE);
	memcpy(buf, "END", 3);
}

static const char *card(unsigned k)
{
	static char text[81];

	memcpy(text, buf + 80 * k, 80);
	for (unsigned n = 80; n && text[n - 1] == ' '; n--)
		text[n - 1] = '\0';
	return text;
}

static const char *text_of(const char *key)
{
	static char value[100];

	memset(value, 0, sizeof(value));
	return hgets(buf, key, sizeof(value), value) ? value : "(none)";
}

static void test_layout(void)
{
	clear();
	CHECK_EQUAL(hputs(buf, "OBS", "Lick"), 0);
	CHECK_EQUAL(hputi4(buf, "BINDPORT", 60001), 0);
	CHECK_EQUAL(hputl(buf, "FLAG", 1), 0);
	CHECK_TEXT(card(0), "OBS     = 'Lick    '");
	CHECK_TEXT(card(1), "BINDPORT=                60001");
	CHECK_TEXT(card(2), "FLAG    =                    T");
	CHECK_TEXT(card(3), "END");
	CHECK_EQUAL(hputs(buf, "OBS", "a longer name"), 0);
	CHECK_TEXT(card(0), "OBS     = 'a longer name'");
	CHECK_EQUAL(hdel(buf, "BINDPORT"), 1);
	CHECK_EQUAL(hdel(buf, "BINDPORT"), 0);
	CHECK_TEXT(card(1), "FLAG    =                    T");
	CHECK_TEXT(card(2), "END");
	CHECK_TEXT(card(3), "");
}

static void test_keys_are_cut(void)
{
	int value = 0;

	clear();
	hputi4(buf, "GROUPPHFRAMES", 1);
	CHECK_EQUAL(hgeti4(buf, "GROUPPHF", &value), 1);
	CHECK_EQUAL(value, 1);
	hputi4(buf, "GROUPPHFxyz", 2);
	CHECK_EQUAL(hgeti4(buf, "GROUPPHFRAMES", &value), 1);
	CHECK_EQUAL(value, 2);
	CHECK_EQUAL(hgeti4(buf, "GROUPPH", &value), 0);
}

static void test_strings(void)
{
	char value[100], text[101];

	clear();
	memset(text, 'x', 100);
	text[100] = '\0';
	CHECK_EQUAL(hputs(buf, "LONG", text), 0);
	CHECK_EQUAL(strlen(text_of("LONG")), 67);
	hputs(buf, "BLANKS", "  a b  ");
	CHECK_TEXT(text_of("BLANKS"), "a b");
	hputs(buf, "EMPTY", "");
	CHECK_TEXT(text_of("EMPTY"), "");
	CHECK_TEXT(text_of("ABSENT"), "(none)");
	hputs(buf, "QUOTE", "it's / here");
	CHECK_TEXT(text_of("QUOTE"), "it's / here");
	hputs(buf, "LINE", "a\nb");
	CHECK_TEXT(text_of("LINE"), "a b");
	/* A value of n or more characters is cut to n - 1 and has no end mark. */
	hputs(buf, "EIGHT", "12345678");
	memset(value, '#', sizeof(value));
	CHECK_EQUAL(hgets(buf, "EIGHT", 8, value), 1);
	CHECK_BYTES(value, "1234567#", 8);
	memset(value, '#', sizeof(value));
	CHECK_EQUAL(hgets(buf, "EIGHT", 9, value), 1);
	CHECK_BYTES(value, "12345678\0#", 10);
	memset(value, '#', sizeof(value));
	CHECK_EQUAL(hgets(buf, "ABSENT", 9, value), 0);
	CHECK_EQUAL(value[0], '#');
}

static void test_numbers(void)
{
	int8 whole = 5;
	uint8 large = 0;
	int four = 7, flag = 0;
	short two = 0;
	double real = 0;
	float single = 0;

	clear();
	hputi8(buf, "I8", -9223372036854775807ll - 1);
	CHECK(hgeti8(buf, "I8", &whole) && whole == -9223372036854775807ll - 1);
	hputu8(buf, "U8", 18446744073709551615ull);
	CHECK(hgetu8(buf, "U8", &large) && large == 18446744073709551615ull);
	hputr8(buf, "R8", 0.1);
	CHECK(hgetr8(buf, "R8", &real) && real == 0.1);
	hputr4(buf, "R4", 0.25f);
	CHECK(hgetr4(buf, "R4", &single) && single == 0.25f);
	hputnr8(buf, "N8", 3, 1.23456);
	CHECK_TEXT(text_of("N8"), "1.235");
	hputi2(buf, "I2", -3);
	CHECK(hgeti2(buf, "I2", &two) && two == -3);
	hputl(buf, "L", 1);
	CHECK(hgetl(buf, "L", &flag) && flag == 1);
	hputs(buf, "TEXT", "60001"); /* a number in quotes is a number too */
	CHECK(hgeti4(buf, "TEXT", &four) && four == 60001);
	CHECK(hgeti4(buf, "R8", &four) && four == 0);
	CHECK(hgeti4(buf, "I8", &four) && four == -2147483647 - 1);
	CHECK_EQUAL(hgeti4(buf, "ABSENT", &four), 0);
	hputs(buf, "WORD", "word");
	four = 7;
	CHECK_EQUAL(hgeti4(buf, "WORD", &four), 0);
	CHECK_EQUAL(four, 7);
}

static void test_full(void)
{
	unsigned n = 0;
	char key[16];
	int value;

	clear();
	for (; n < 10000; n++) {
		snprintf(key, sizeof(key), "K%u", n);
		if (hputi4(buf, key, (int)n))
			break;
	}
	CHECK_EQUAL(n, HASHPIPE_STATUS_TOTAL_SIZE / 80 - 1); /* END has to stay */
	CHECK(hgeti4(buf, "K0", &value) && value == 0);
	CHECK(hgeti4(buf, "K2302", &value) && value == 2302);
	CHECK_EQUAL(hputi4(buf, "K2302", 1), 0); /* what is there can be changed */
	CHECK_EQUAL(hdel(buf, "K5"), 1);
	CHECK_EQUAL(hputi4(buf, "NEW", 1), 0);
	CHECK_EQUAL(hputi4(buf, "NEWER", 1), -1);
	CHECK_EQUAL(hputs(buf, "END", "no"), -1);
}

/* A buffer without END is not read beyond. */
static void test_broken(void)
{
	char value[10] = "";

	memset(buf, 'x', HASHPIPE_STATUS_TOTAL_SIZE);
	CHECK_EQUAL(hgets(buf, "KEY", sizeof(value), value), 0);
	CHECK_EQUAL(hputs(buf, "KEY", "x"), -1);
	CHECK_EQUAL(hdel(buf, "KEY"), 0);
}

static void test_status(void)
{
	hashpipe_status_t one, two;
	int instance = -1;

	memset(&one, 0, sizeof(one));
	memset(&two, 0, sizeof(two));
	CHECK(!hashpipe_status_exists(5));
	CHECK_EQUAL(hashpipe_status_attach(5 + 64, &one), 0); /* masked */
	CHECK(hashpipe_status_exists(5));
	CHECK_EQUAL(hashpipe_status_attach(5, &two), 0);
	CHECK(one.buf == two.buf);
	hashpipe_status_lock_safe(&one);
	CHECK(hgeti4(one.buf, "INSTANCE", &instance) && instance == 5);
	hputs(one.buf, "X", "y");
	hashpipe_status_unlock_safe(&one);
	CHECK_EQUAL(hashpipe_status_lock_busywait(&two), 0);
	hashpipe_status_unlock(&two);
	hashpipe_status_chkinit(&two);
	CHECK_EQUAL(hdel(two.buf, "X"), 1);
	hashpipe_status_clear(&two);
	hashpipe_status_detach(&one);
	hashpipe_status_detach(&two);
	engine_free_statuses();
}

int main(void)
{
	buf = malloc(HASHPIPE_STATUS_TOTAL_SIZE);
	test_layout();
	test_keys_are_cut();
	test_strings();
	test_numbers();
	test_full();
	test_broken();
	test_status();
	free(buf);
	return check_result();
}
