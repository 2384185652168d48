/* sender.c -- see sender.h */
#define _GNU_SOURCE
#include "sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { SEND_BUFFER_BYTES = 4 << 20, FULL_RETRIES = 2000, FULL_PAUSE_NS = 50000 };

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

struct slot {
	struct sockaddr_in destination;
	struct iovec iov;
	union control control;
	struct sender_tally *tally;
	uint64_t *copies;
	uint8_t payload[SENDER_DATAGRAM];
};

struct sender {
	int fd;
	unsigned used;
	struct mmsghdr messages[SENDER_SLOTS];
	struct slot slots[SENDER_SLOTS];
};

static void prepare_slot(struct mmsghdr *message, struct slot *slot)
{
	struct cmsghdr *control = &slot->control.header;

	slot->iov.iov_base = slot->payload;
	control->cmsg_level = IPPROTO_IP;
	control->cmsg_type = IP_PKTINFO;
	control->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
	message->msg_hdr = (struct msghdr){
		.msg_name = &slot->destination,
		.msg_namelen = sizeof slot->destination,
		.msg_iov = &slot->iov,
		.msg_iovlen = 1,
		.msg_control = &slot->control,
		.msg_controllen = sizeof slot->control,
	};
}

int sender_open(struct sender **out, uint16_t port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, size = SEND_BUFFER_BYTES, error;
	struct sender *sender = calloc(1, sizeof *sender);

	if (!sender)
		return -ENOMEM;
	sender->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sender->fd < 0)
		goto fail;
	/* Nothing is ever received here, so several simulators of one machine may share the
	 * port; each datagram names its own source address. */
	if (setsockopt(sender->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
		goto fail;
	(void)setsockopt(sender->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (bind(sender->fd, (struct sockaddr *)&any, sizeof any) < 0)
		goto fail;
	for (int i = 0; i < SENDER_SLOTS; i++)
		prepare_slot(&sender->messages[i], &sender->slots[i]);
	*out = sender;
	return 0;
fail:
	error = -errno;
	sender_close(sender);
	return error;
}

void sender_close(struct sender *sender)
{
	if (!sender)
		return;
	if (sender->fd >= 0)
		close(sender->fd);
	free(sender);
}

uint8_t *sender_reserve(struct sender *sender)
{
	if (sender->used == SENDER_SLOTS)
		sender_flush(sender);
	return sender->slots[sender->used].payload;
}

void sender_commit(struct sender *sender, size_t length, struct in_addr source,
		   const struct sockaddr_in *destination, struct sender_tally *tally,
		   uint64_t *copies)
{
	struct slot *slot = &sender->slots[sender->used++];
	struct in_pktinfo info = { .ipi_spec_dst = source };

	memcpy(CMSG_DATA(&slot->control.header), &info, sizeof info);
	slot->destination = *destination;
	slot->iov.iov_len = length;
	slot->tally = tally;
	slot->copies = copies;
}

static void count(struct slot *slot, int sent)
{
	if (!sent) {
		slot->tally->send_errors++;
		return;
	}
	slot->tally->bytes += slot->iov.iov_len;
	if (slot->copies)
		(*slot->copies)++;
	else
		slot->tally->sent++;
}

void sender_flush(struct sender *sender)
{
	unsigned done = 0, retries = 0;
	const struct timespec pause = { .tv_nsec = FULL_PAUSE_NS };

	while (done < sender->used) {
		int n = sendmmsg(sender->fd, sender->messages + done, sender->used - done, 0);
		if (n > 0) {
			for (int i = 0; i < n; i++)
				count(&sender->slots[done++], 1);
			retries = 0;
		} else if (errno == EINTR) {
			continue;
		} else if ((errno == ENOBUFS || errno == EAGAIN || errno == ENOMEM) &&
			   retries++ < FULL_RETRIES) {
			nanosleep(&pause, NULL); /* a full queue empties by itself */
		} else {
			count(&sender->slots[done++], 0); /* cannot be sent at all: go on */
			retries = 0;
		}
	}
	sender->used = 0;
}
