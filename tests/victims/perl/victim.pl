#!/usr/bin/env perl
# The victim in Perl: a forked process per connection, HTTP::Tiny, core modules only. The contract is in ../README.md.
use strict;
use warnings;
use Errno ();
use HTTP::Tiny;
use IO::Socket::INET;
use IO::Socket::IP;
use Socket qw(getaddrinfo getnameinfo NI_NUMERICHOST NIx_NOSERV SOCK_STREAM EAI_AGAIN);

my $NAME = 'perl';
$| = 1;

sub fail { print "error $_[0]\n"; exit 1 }

# %! knows every errno by its name
sub errno_name { my ($name) = grep { $!{$_} } keys %!; return $name // 'E' . ($! + 0) }

# For modules that keep only the words of the error.
sub name_of_words {
    my ($words) = @_;
    return 'EAI_AGAIN' if $words =~ /Temporary failure/;
    return 'NXDOMAIN' if $words =~ /not known|No address associated|Bad hostname/;
    for my $name (qw(ECONNREFUSED EHOSTUNREACH ENETUNREACH ETIMEDOUT ECONNRESET EACCES)) {
        local $! = Errno->can($name)->();
        return $name if index($words, "$!") >= 0;
    }
    return $words;
}

sub show { my ($host, $port) = @_; return $host =~ /:/ ? "[$host]:$port" : "$host:$port" }

sub talk {
    my ($client) = @_;
    my $peer = show($client->peerhost, $client->peerport);
    while (defined(my $line = <$client>)) {
        my ($method, $path, $version) = split ' ', $line;
        my %header;
        while (defined(my $next = <$client>)) {
            last unless $next =~ /^([^:]+):\s*(.*?)\s*$/;
            $header{lc $1} = $2;
        }
        read $client, my $dropped, $header{'content-length'} // 0;
        my $close = $version eq 'HTTP/1.0' || lc($header{connection} // '') eq 'close';
        my $body = qq({"lang":"$NAME","peer":"$peer","method":"$method","path":"$path"});
        print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: $NAME\r\nContent-Length: ",
            length $body, "\r\nConnection: ", ($close ? 'close' : 'keep-alive'), "\r\n\r\n$body";
        last if $close;
    }
}

sub serve {
    my ($port) = @_;
    my $server = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => $port, Listen => 128, ReuseAddr => 1)
        or fail(errno_name());
    my %children;
    $SIG{CHLD} = sub { while ((my $pid = waitpid -1, 1) > 0) { delete $children{$pid} } };
    $SIG{TERM} = sub { kill TERM => keys %children; exit 0 };
    print "listening $port\n";
    while (1) {
        my $client = $server->accept or next;    # a child's end interrupts accept()
        my $pid = fork // fail(errno_name());
        if ($pid == 0) {
            $SIG{TERM} = $SIG{CHLD} = 'DEFAULT';
            close $server;
            talk($client);
            exit 0;
        }
        $children{$pid} = 1;
    }
}

sub get {
    my ($url) = @_;
    my $response = HTTP::Tiny->new(no_proxy => '*', proxy => undef, http_proxy => undef)->get($url);
    fail(name_of_words($response->{content})) if $response->{status} == 599;    # the client's own failures
    print "$response->{status}\n$response->{content}";
}

sub resolve {
    my ($name) = @_;
    my ($error, @list) = getaddrinfo($name, '', { socktype => SOCK_STREAM });
    fail($error == EAI_AGAIN ? 'EAI_AGAIN' : 'NXDOMAIN') if $error;
    print +(getnameinfo($_->{addr}, NI_NUMERICHOST, NIx_NOSERV))[1], "\n" for @list;
}

sub connect_to {
    my ($host, $port) = @_;
    my $sock = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Type => SOCK_STREAM)
        or fail(name_of_words($@));
    print 'ok ', show($sock->sockhost, $sock->sockport), ' -> ', show($sock->peerhost, $sock->peerport), "\n";
}

sub file {
    my ($path) = @_;
    open my $in, '<:raw', $path or fail(errno_name());
    while (1) {
        my $n = sysread $in, my $chunk, 65536;
        fail(errno_name()) unless defined $n;
        last if $n == 0;
        print $chunk;
    }
}

sub ls {
    my ($dir) = @_;
    opendir my $handle, $dir or fail(errno_name());
    print map { "$_\n" } sort grep { !/^\.\.?$/ } readdir $handle;
}

sub stat_of {
    my ($path) = @_;
    my @st = stat $path or fail(errno_name());
    my $type = { 0100000 => 'file', 0040000 => 'dir', 0120000 => 'link' }->{ $st[2] & 0170000 } // 'other';
    printf "%d %04o %s\n", $st[7], $st[2] & 07777, $type;
}

my %commands = (
    serve => \&serve, get => \&get, resolve => \&resolve, connect => \&connect_to,
    file => \&file, ls => \&ls, stat => \&stat_of,
);
my ($command, @args) = @ARGV;
my $run = $commands{ $command // '' };
if (!$run || !@args) {
    print STDERR 'usage: victim ', join(' | ', sort keys %commands), "\n";
    exit 2;
}
$run->(@args);
